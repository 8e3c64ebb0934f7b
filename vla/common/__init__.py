"""What every room needs and no room owns: errors, the registry, names, atomic files, cores,
versions, progress; no torch."""
