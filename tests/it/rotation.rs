//! The gate's signing keys: created, rotated, shared between gates and deleted.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::{
    exchange::{PROTECTED_PATH, URL, ask, exchanged, good, harness, header},
    support::{Gate, peers::jose},
};

#[tokio::test]
async fn unwritable_keys_are_reported_and_missing_keys_refuse() {
    let harness = harness().await;
    // a file stands where the directory should be
    harness.directory.write("keys", "");
    let gate = harness.start_unready().await;
    let told = crate::support::eventually("readiness to tell of the keys", || async {
        let answer = gate.admin("/readyz").await;
        answer.text().contains("error: signing keys").then_some(answer)
    })
    .await;
    assert_eq!(told.status, 503, "{told:?}");
    let refused = crate::support::eventually("the issuer's keys", || async {
        let answer = ask(&gate, &good(&gate.token("scrape"), URL)).send().await;
        (answer.json()["reason"] != "issuer_unavailable").then_some(answer)
    })
    .await;
    assert_eq!((refused.status.as_u16(), &refused.json()["reason"]), (503, &"no_signing_key".into()), "{refused:?}");
    assert!(!gate.permitted(&refused.id()), "a token that could not be signed has a permit");
    std::fs::remove_file(gate.directory.join("keys")).unwrap();
    gate.ready().await;
    exchanged(&gate, &gate.token("scrape"), URL).await;
}

#[tokio::test]
async fn a_reload_that_changes_the_rotation_keeps_tokens_valid() {
    let gate = harness().await.start().await;
    let (_, given) = exchanged(&gate, &gate.token("scrape"), URL).await;
    let token = given["access_token"].as_str().unwrap();
    let file = gate.directory.join("wicketgate.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("keys = \"keys\"", "keys = \"keys\"\nrotate = \"48h\"")).unwrap();
    gate.program.signal("HUP").await;
    crate::support::eventually("the reload", || async {
        assert_eq!(gate.get(PROTECTED_PATH).bearer(token).send().await.status, 200, "a token was refused in between");
        gate.program.lines().iter().any(|line| line.contains("was reloaded")).then_some(())
    })
    .await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(token).send().await.status, 200);
}

#[tokio::test]
async fn a_deleted_key_is_refused_and_replaced() {
    let gate = harness().await.start().await;
    let (_, given) = exchanged(&gate, &gate.token("scrape"), URL).await;
    let token = given["access_token"].as_str().unwrap().to_owned();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, 200);
    for entry in std::fs::read_dir(gate.directory.join("keys")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    crate::support::eventually("the removed key's token to be refused", || async {
        (gate.get(PROTECTED_PATH).bearer(&token).send().await.status == 401).then_some(())
    })
    .await;
    let (_, given) = exchanged(&gate, &gate.token("scrape"), URL).await;
    let fresh = given["access_token"].as_str().unwrap();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(fresh).send().await.status, 200, "no new key took its place");
}

#[tokio::test]
async fn gates_that_share_a_directory_share_keys() {
    let first = harness().await.start().await;
    let second = harness().await;
    // the two trust the same issuer and share the keys
    let keys = first.directory.join("keys");
    let issuer = first.issuer.url();
    let trusted = format!("[[issuer]]\nname = \"corp\"\nissuer = \"{issuer}\"\naudiences = [\"wicketgate\"]");
    let shared = format!("[token_issuer]\nkeys = \"{}\"", keys.display());
    let second = second.section("token_issuer", shared).section("issuer", trusted);
    let second = second.start().await;
    let (_, given) = exchanged(&first, &first.token("scrape"), URL).await;
    let answer = second.get(PROTECTED_PATH).bearer(given["access_token"].as_str().unwrap()).send().await;
    assert_eq!(answer.status, 200, "another gate does not know the token: {answer:?}");
    let jwks = |gate: &Gate| gate.get("/.well-known/jwks.json");
    assert_eq!(jwks(&first).send().await.json(), jwks(&second).send().await.json());

    // the next key, as a gate that rotates makes it: published at once, and not yet signed with
    for entry in std::fs::read_dir(&keys).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let kid = name.split_once('-').unwrap().1;
        // grown old enough for the next to be due
        std::fs::rename(&path, keys.join(format!("20260101T000000Z-{kid}"))).unwrap();
    }
    // one more, or two where both gates look at the same moment
    let both = crate::support::eventually("both gates to publish a new key", || async {
        let found = jwks(&second).send().await.json();
        let other = jwks(&first).send().await.json();
        (found == other && found["keys"].as_array().unwrap().len() >= 2).then_some(found)
    })
    .await;
    let kid = both["keys"][0]["kid"].as_str().unwrap().to_owned();
    let kids = |jwks: &Value| -> BTreeSet<String> {
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].to_string()).collect()
    };
    let (_, given) = exchanged(&first, &first.token("scrape"), URL).await;
    let token = given["access_token"].as_str().unwrap();
    let said = jose(token, &both, URL, URL, "at+jwt").await;
    assert_eq!(said["header"]["kid"], kid, "the new key signs before its time");
    assert_eq!(second.get(PROTECTED_PATH).bearer(token).send().await.status, 200);

    // an overlap later the new one signs, and what the old one signed still counts
    let names = std::fs::read_dir(&keys).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let newest = names.filter(|name| name.ends_with(".pem")).max().unwrap();
    let then = wicketgate::internals::clock::now() - Duration::from_secs(2 * 3600);
    let ripe = format!("{}-{}", then.strftime("%Y%m%dT%H%M%SZ"), newest.split_once('-').unwrap().1);
    std::fs::rename(keys.join(&newest), keys.join(ripe)).unwrap();
    for gate in [&first, &second] {
        crate::support::eventually("the new key to sign", || async {
            let (_, given) = exchanged(gate, &first.token("scrape"), URL).await;
            let said = header(given["access_token"].as_str().unwrap());
            newest.contains(said["kid"].as_str().unwrap()).then_some(())
        })
        .await;
        assert_eq!(gate.get(PROTECTED_PATH).bearer(token).send().await.status, 200, "the old key's token is refused");
        let published = kids(&jwks(gate).send().await.json());
        assert!(kids(&both).is_subset(&published), "a key is withdrawn too early: {published:?}");
    }
}
