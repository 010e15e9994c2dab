"""How the value of a divergence between two given distributions is computed: by closed form, sum, quadrature or draws."""
