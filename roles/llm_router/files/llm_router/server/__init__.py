"""The process and its sockets."""
