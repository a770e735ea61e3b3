"""The pages of docs/reference, written from the specifications that the code goes by."""
