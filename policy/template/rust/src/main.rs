//! A policy for tickets of drv-thru: it allows builds by the names of their
//! derivations, and can shorten them. Its settings:
//!
//!     {"allow": ["hello-*", "stdenv"], "max_build_seconds": 900}
//!
//! What a policy is asked and may answer is told by "drv-thru policy schema
//! request" and "drv-thru policy schema decision".

mod json;

use json::{quote, Json};
use std::io::Read;

fn deny(reason: &str) -> String {
    format!(r#"{{"abi":"ticket-policy/1","decision":"deny","reason":{}}}"#, quote(reason))
}

fn decide(r: &Json) -> String {
    let (settings, build) = (r.get("settings"), r.get("request"));
    let allow = settings.get("allow").list();
    if allow.is_empty() {
        return deny("the policy has no list of what to allow");
    }
    if build.get("roots_truncated").truth() || build.get("to_build_truncated").truth() {
        return deny("the list of derivations is too long to check");
    }
    for d in build.get("roots").list().iter().chain(build.get("to_build").list()) {
        let name = d.get("name").text();
        if !allow.iter().any(|p| matches(p.text().as_bytes(), name.as_bytes())) {
            return deny(&format!("{} is not allowed", name));
        }
    }
    let most = match settings.get("max_build_seconds") {
        Json::Null => 0,
        Json::Number(n) if *n >= 0.0 && n.fract() == 0.0 => *n as u64,
        _ => return deny("max_build_seconds of the policy is no whole number"),
    };
    let now = r.get("ticket").get("limits").get("max_build_seconds").number(); // 0: no limit
    if most > 0 && (now == 0 || most < now) {
        return format!(r#"{{"abi":"ticket-policy/1","decision":"narrow","limits":{{"max_build_seconds":{}}}}}"#, most);
    }
    String::from(r#"{"abi":"ticket-policy/1","decision":"allow"}"#)
}

/// Compares a name with a pattern in which * is any text and ? any character.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                None => return false,
                Some((at, from)) => {
                    p = at + 1;
                    n = from + 1;
                    star = Some((at, n));
                }
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

fn main() {
    let mut text = String::new();
    let request = match std::io::stdin().read_to_string(&mut text) {
        Ok(_) => Json::parse(&text),
        Err(_) => None,
    };
    match request {
        Some(r) => print!("{}", decide(&r)),
        None => {
            eprintln!("the request is not JSON"); // for the builder's owner
            std::process::exit(1); // denies
        }
    }
}

#[test]
fn decides() {
    let ask = |settings: &str, name: &str| {
        decide(&Json::parse(&format!(r#"{{"settings":{},"request":{{"roots":[{{"name":{}}}]}}}}"#, settings, quote(name))).unwrap())
    };
    assert!(ask(r#"{"allow":["hello-*"]}"#, "hello-2.12").contains("allow"));
    assert!(ask(r#"{"allow":["x","h?llo*2"]}"#, "hello-2.12").contains("allow"));
    assert!(ask(r#"{"allow":["hello-*"]}"#, "firefox").contains("firefox is not allowed"));
    assert!(ask("{}", "hello").contains("no list"));
    for wrong in ["\"60\"", "0.5", "-1", "[60]"] {
        assert!(ask(&format!(r#"{{"allow":["*"],"max_build_seconds":{}}}"#, wrong), "hello").contains("no whole number"), "{}", wrong);
    }
    assert!(ask(r#"{"allow":["*"],"max_build_seconds":60}"#, "hello").contains(r#""max_build_seconds":60"#));
}
