"""Hostile case 101: one beacon node among peers that come and go, a tenth of them hostile, and nothing of it grows."""
