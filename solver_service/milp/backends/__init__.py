"""The solvers behind one seam; only these modules import one."""
