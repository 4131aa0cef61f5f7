"""DreamBooth training on torch and diffusers. Knows no host; usable from Python and a shell."""
