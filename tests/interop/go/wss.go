package main

import stdtls "crypto/tls"

// What a listener on /wss shows.
func webCertificate() *stdtls.Config {
	pair, err := stdtls.LoadX509KeyPair(*fWebCert, *fWebCert)
	die(err)
	return &stdtls.Config{Certificates: []stdtls.Certificate{pair}}
}

// Judges no certificate: who the peer is, is proven inside.
func trusting() *stdtls.Config {
	return &stdtls.Config{InsecureSkipVerify: true}
}
