"""Layers or heads removed alone, in pairs and in sampled sets: what they cost beyond their sum."""
