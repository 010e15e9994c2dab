"""Models known by an energy: Boltzmann machines, deep ones, and deep belief nets on top of one."""
