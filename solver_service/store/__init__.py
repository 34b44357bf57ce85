"""Redis behind small modules, one per kind of thing kept."""
