//! What the gate answers itself, after authorization: grants, the start page, service discovery.

pub(super) mod grants;
pub(super) mod home;
pub(super) mod sd;
