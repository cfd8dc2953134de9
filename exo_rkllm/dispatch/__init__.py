"""Who is answered when, on which model: decisions over values, and the one object that carries them out."""
