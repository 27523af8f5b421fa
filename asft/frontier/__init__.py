"""Methods compared over their strengths: chosen on one half of the prompts, told by the other."""
