"""Datasets made of datasets: converted, resampled, merged, split, filtered, labelled."""
