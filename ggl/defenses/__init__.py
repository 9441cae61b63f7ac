"""What a client does to its gradient before it shares it, and what an attacker makes of that."""

from ggl.defenses.base import ATTACKERS, Attacker, Composed, Defense, NoDefense, find_attacker
from ggl.defenses.catalog import defenses, load_defense, register_defense

__all__ = [
    "ATTACKERS",
    "Attacker",
    "Composed",
    "Defense",
    "NoDefense",
    "defenses",
    "find_attacker",
    "load_defense",
    "register_defense",
]
