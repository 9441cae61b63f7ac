"""What a client does to its gradient before it shares it, and what an attacker makes of that."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
