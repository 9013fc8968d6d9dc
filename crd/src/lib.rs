//! What a Kubernetes API type is.
