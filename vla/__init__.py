"""Robot policies that are transformers over tokens."""
