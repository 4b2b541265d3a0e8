"""Pictures of densities, samples, images and conditionals."""
