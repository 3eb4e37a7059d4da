"""How the judge of StoryWorld's films is trained; the wheel has its weights alone."""
