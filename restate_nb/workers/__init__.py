"""Workers: processes that run jobs of functions which can be imported, on as many machines as one likes."""
