"""What a host has of engines and models, and the models.yml that follows from it.

`survey` reads the host and nothing else does; everything beside it is pure. Standard library only,
for the target's Python (>= 3.9): the module ``engine_info`` runs this where nothing is installed
yet, ``llm-router discover`` runs the same files.
"""
