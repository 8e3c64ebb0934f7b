"""Why a trained policy fails: what its training, its data and its env say of it, one check each."""
