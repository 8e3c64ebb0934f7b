"""What every room needs and no room owns: errors, the registry, names, atomic files, checksums,
JSON and models of others, the console, cores, versions, progress; no torch."""
