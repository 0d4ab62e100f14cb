"""PipeFusion: each rank keeps a stage of the blocks, and patches of the sequence follow each other through them."""
