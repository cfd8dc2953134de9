"""Answers of a demanded form: each piece is matched as it comes, and what cannot belong is answered anew."""
