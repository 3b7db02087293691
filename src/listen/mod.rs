mod peer;
pub use peer::Peer;
