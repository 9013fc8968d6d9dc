//! How a controller lives.
