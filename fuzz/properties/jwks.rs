//! What holds for every JWKS, whatever its bytes: nothing panics, and what is taken of it is a bounded number of keys,
//! each for some asymmetric algorithm and for no other.

use wicketgate::internals::{
    Algorithm,
    keys::{MAX_JWKS_KEYS, parse_jwks},
};

/// Holds one input to the rules.
pub(super) fn check(bytes: &[u8]) {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
    let Ok(keys) = parse_jwks(bytes) else { return };
    assert!((1..=MAX_JWKS_KEYS).contains(&keys.len()), "{} keys", keys.len());
    for key in &keys {
        assert!(
            [HS256, HS384, HS512].into_iter().all(|symmetric| !key.supports(symmetric)),
            "a symmetric key is taken"
        );
        let families: [&[Algorithm]; 4] = [&[RS256, RS384, RS512, PS256, PS384, PS512], &[ES256], &[ES384], &[EdDSA]];
        let fitting =
            families.into_iter().filter(|family| family.iter().any(|algorithm| key.supports(*algorithm))).count();
        assert_eq!(fitting, 1, "a key is for {fitting} families of algorithms");
    }
}
