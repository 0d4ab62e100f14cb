"""`ditmesh serve`."""
