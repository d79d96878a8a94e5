//! What the app may ask the forwarder for.
