"""Good starts: primal heuristics of the final layer, by linear programs over kept samples."""
