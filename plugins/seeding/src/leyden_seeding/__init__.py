"""Ways of seeding what datasets draw, for Leyden."""
