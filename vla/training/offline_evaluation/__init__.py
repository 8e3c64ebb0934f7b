"""How good policies and critics are, judged by recorded episodes without a simulator."""
