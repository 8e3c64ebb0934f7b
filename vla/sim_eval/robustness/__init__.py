"""The same episodes clean and perturbed: the sweep, its table with paired tests, its pictures."""
