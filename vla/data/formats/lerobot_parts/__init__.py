"""What the readers of LeRobot datasets share: info.json, tables, data files, videos, labels,
specs."""
