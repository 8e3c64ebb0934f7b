"""Workers that are watched and replaced, on this machine or on a Ray cluster; rollouts and collection use them."""
