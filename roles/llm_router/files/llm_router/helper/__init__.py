"""The root helper: the one narrow door through which the router does what needs root."""
