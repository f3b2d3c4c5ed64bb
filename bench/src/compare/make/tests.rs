use super::*;

/// The bootstrap of one side of a way.
fn bootstrap(make: &Make, side: Side) -> String {
    let directory = tempfile::tempdir().unwrap();
    let identities = Identities::new().unwrap();
    let place = Place {
        side,
        protocol: Protocol::Http1,
        access_log: false,
        target: ([192, 0, 2, 1], PORT).into(),
        identities: &identities,
        directory: directory.path(),
        single_uid: false,
    };
    make.command(&place).unwrap();
    fs::read_to_string(directory.path().join(format!("{side:?}-bootstrap.json"))).unwrap()
}

#[test]
fn what_forwards_has_neither_tls_nor_a_policy() {
    let weir = Make::Weir("weir-proxy".into(), Between::AsClient);
    let forward = Make::Forward("weir-proxy".into());
    for side in [Side::Client, Side::Server] {
        assert!(bootstrap(&weir, side).contains("transport_sockets.tls"));
        let plain = bootstrap(&forward, side);
        assert!(
            !plain.contains("transport_socket") && !plain.contains("rbac"),
            "{plain}"
        );
        assert!(plain.contains("tcp_proxy"), "{plain}");
    }
}
