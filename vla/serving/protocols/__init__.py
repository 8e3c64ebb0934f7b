"""One file per protocol, each a `Conversation` under `@register("protocols", NAME)`."""
