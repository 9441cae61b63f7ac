"""The leaderboard: defenses at a strength that keeps accuracy, by what the strongest attacker finds."""
