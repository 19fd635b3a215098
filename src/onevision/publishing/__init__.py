"""From measured models to what is served: the gate, the bundle, and the champion of a bundle store."""
