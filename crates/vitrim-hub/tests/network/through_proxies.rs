//! Which requests go through which proxy, and in what form.

use crate::World;
use crate::relay::{Proxy, secured, socks};

/// A name that only the proxy knows.
const HUB: &str = "http://hub.test";

#[test]
fn http_goes_through_the_proxy_with_its_whole_address() {
    let world = World::new();
    let proxy = Proxy::to(world.address());
    let address = format!("http://me:se%20cret@{}", proxy.address);
    // The large file is on localhost, which is asked directly.
    world.fetched(&[
        ("HF_ENDPOINT", HUB),
        ("HTTP_PROXY", &address),
        ("NO_PROXY", "localhost"),
        ("HF_TOKEN", "hf_x"),
    ]);
    let heads = proxy.heads();
    assert_eq!(heads.len(), 3, "{heads:?}");
    assert!(
        heads[0]
            .starts_with("GET http://hub.test/api/models/timm/deit/revision/main?blobs=true HTTP/1.1\r\n")
    );
    for head in &heads {
        assert!(head.starts_with("GET http://hub.test/"), "{head}");
        let lower = head.to_lowercase();
        assert!(
            lower.contains("host: hub.test\r\n") && lower.contains("authorization: bearer hf_x\r\n"),
            "{head}"
        );
        // me:se cret in base64.
        assert!(head.contains("Proxy-Authorization: Basic bWU6c2UgY3JldA==\r\n"), "{head}");
    }
    let asked = world.server.asked();
    assert_eq!(asked.iter().filter(|asked| asked.target.starts_with("/large/")).count(), 1);
}

#[test]
fn https_goes_through_a_tunnel() {
    let world = World::new();
    let (port, pem) = secured("hub.test", world.address());
    let proxy = Proxy::to(format!("127.0.0.1:{port}"));
    let file = world.folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let variables = [
        ("HF_ENDPOINT", "https://hub.test"),
        // Without http:// in front, as curl takes it.
        ("https_proxy", proxy.address.as_str()),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("no_proxy", "127.0.0.1,localhost"),
        ("SSL_CERT_FILE", file.to_str().unwrap()),
    ];
    world.fetched(&variables);
    let heads = proxy.heads();
    assert!(
        !heads.is_empty() && heads.iter().all(|head| head.starts_with("CONNECT hub.test:443 ")),
        "{heads:?}"
    );
}

#[test]
fn a_socks_proxy_resolves_the_name_of_the_host() {
    let world = World::new();
    let (port, pem) = secured("hub.test", world.address());
    let file = world.folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    for (endpoint, target) in [(HUB, world.address()), ("https://hub.test", format!("127.0.0.1:{port}"))] {
        let (address, hosts) = socks(target);
        world.fetched(&[
            ("HF_ENDPOINT", endpoint),
            ("ALL_PROXY", &format!("socks5h://{address}")),
            ("NO_PROXY", "localhost"),
            ("SSL_CERT_FILE", file.to_str().unwrap()),
        ]);
        assert_eq!(*hosts.lock().unwrap(), ["hub.test"; 3], "{endpoint}");
        std::fs::remove_dir_all(world.folder.path().join("hub")).unwrap();
    }
}

#[test]
fn no_proxy_keeps_the_hub_direct() {
    for (listed, direct) in
        [("127.0.0.1,localhost", true), ("127.0.0.0/8,.localhost", true), ("*", true), ("hub.test", false)]
    {
        let world = World::new();
        let proxy = Proxy::to(world.address());
        let address = format!("http://{}", proxy.address);
        let endpoint = world.server.endpoint();
        let listed = if direct { listed.to_owned() } else { format!("{listed},localhost") };
        world.fetched(&[("HF_ENDPOINT", &endpoint), ("ALL_PROXY", &address), ("NO_PROXY", &listed)]);
        assert_eq!(proxy.heads().is_empty(), direct, "{listed}");
    }
    // With a port, only that port.
    let world = World::new();
    let proxy = Proxy::to(world.address());
    let (address, endpoint) = (format!("http://{}", proxy.address), world.server.endpoint());
    let listed = format!("{},localhost", world.address());
    world.fetched(&[("HF_ENDPOINT", &endpoint), ("http_proxy", &address), ("NO_PROXY", &listed)]);
    assert_eq!(proxy.heads().len(), 0);
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_without_its_password() {
    let world = World::new();
    let gone = "http://me:secret@127.0.0.1:1";
    world.refused(
        &[("HF_ENDPOINT", HUB), ("HTTP_PROXY", gone)],
        &["through the proxy 127.0.0.1:1 of HTTP_PROXY"],
    );
    let error = world.fetch(&[("HF_ENDPOINT", HUB), ("HTTP_PROXY", gone)]).unwrap_err().to_string();
    assert!(!error.contains("secret"), "{error}");
    world.refused(
        &[("HTTPS_PROXY", "gopher://proxy:1")],
        &["HTTPS_PROXY does not hold the address of a proxy"],
    );
}
