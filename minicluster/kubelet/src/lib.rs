//! Part of minicluster.
