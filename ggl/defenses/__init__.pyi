from .base import ATTACKERS, Composed, Defense, NoDefense
from .catalog import defenses, register_defense
from .client import Client
from .loading import load_defense

__all__ = [
    "ATTACKERS",
    "Client",
    "Composed",
    "Defense",
    "NoDefense",
    "defenses",
    "load_defense",
    "register_defense",
]
