//! Certificates that the environment names are accepted, and without them the Hub's are not.

use crate::World;
use crate::relay::{secured, self_signed};

#[test]
fn the_certificates_that_a_variable_names_are_accepted() {
    let world = World::new();
    let (port, pem) = secured("localhost", world.address());
    let folder = world.folder.path().join("certificates");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let (file, folder) = (file.to_str().unwrap(), folder.to_str().unwrap());
    let endpoint = ("HF_ENDPOINT", format!("https://localhost:{port}"));
    let endpoint = (endpoint.0, endpoint.1.as_str());
    world.refused(&[endpoint], &["no answer from https://localhost", "UnknownIssuer", "set SSL_CERT_FILE"]);
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let path = if name == "SSL_CERT_DIR" { folder } else { file };
        world.fetched(&[endpoint, (name, path)]);
        std::fs::remove_dir_all(world.folder.path().join("hub")).unwrap();
    }
    // Only these, and not the usual ones beside them.
    let (_, other) = secured("localhost", world.address());
    std::fs::write(file, other).unwrap();
    let named = format!("only the certificates of CURL_CA_BUNDLE={file} are accepted");
    world.refused(&[endpoint, ("CURL_CA_BUNDLE", file)], &["invalid peer certificate", &named]);
}

#[test]
fn a_file_that_is_missing_matters_only_on_https() {
    let world = World::new();
    let missing = ("SSL_CERT_FILE", "/no/such.pem");
    world.refused(
        &[missing, ("HF_ENDPOINT", "https://localhost:1")],
        &["SSL_CERT_FILE=/no/such.pem: ", "unset SSL_CERT_FILE"],
    );
    world.fetched(&[missing, ("HF_ENDPOINT", &world.server.endpoint())]);
}

#[test]
fn a_certificate_that_signs_itself_is_accepted_if_it_is_listed() {
    let world = World::new();
    let (port, pem) = self_signed("localhost", world.address());
    let file = world.folder.path().join("own.pem");
    std::fs::write(&file, pem).unwrap();
    let (file, endpoint) = (file.to_str().unwrap(), format!("https://localhost:{port}"));
    world.refused(&[("HF_ENDPOINT", &endpoint)], &["certificate", "set SSL_CERT_FILE"]);
    world.fetched(&[("HF_ENDPOINT", &endpoint), ("SSL_CERT_FILE", file)]);
    // For its own name alone.
    let other = format!("https://127.0.0.1:{port}");
    std::fs::remove_dir_all(world.folder.path().join("hub")).unwrap();
    world.refused(&[("HF_ENDPOINT", &other), ("SSL_CERT_FILE", file)], &["not valid for name"]);
}
