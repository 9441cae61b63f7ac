"""What a client does to its gradient before it shares it, and what an attacker makes of that."""

from ggl.defenses.base import ATTACKERS, Composed, Defense, NoDefense
from ggl.defenses.catalog import defenses, load_defense, register_defense
from ggl.defenses.client import Client

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
