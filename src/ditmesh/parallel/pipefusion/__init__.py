"""PipeFusion: each rank keeps one stage of the blocks. Patches of the sequence follow each other through the stages."""
