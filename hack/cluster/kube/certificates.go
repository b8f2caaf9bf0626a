package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// wanted is one certificate to make. With no issuer it is an authority that signs itself.
type wanted struct {
	Name, CommonName, Issuer string
	Organizations, DNSNames  []string
	Addresses                []net.IP
}

// Clients whose clock is behind must find the certificates valid already.
const backdated = time.Hour

// certificates reads a JSON list of wanted certificates on stdin and writes NAME.crt and NAME.key for each into
// the current folder, issuers first. Keys are ECDSA P-256.
func certificates() error {
	var list []wanted
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		return err
	}
	authorities := map[string]*x509.Certificate{}
	keys := map[string]crypto.Signer{}
	for _, want := range list {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		certificate, err := template(want)
		if err != nil {
			return err
		}
		issuer, issuerKey := certificate, crypto.Signer(key)
		if want.Issuer != "" {
			issuer, issuerKey = authorities[want.Issuer], keys[want.Issuer]
		}
		if issuer == nil {
			return fmt.Errorf("%s: its issuer %s does not come before it", want.Name, want.Issuer)
		}
		der, err := x509.CreateCertificate(rand.Reader, certificate, issuer, key.Public(), issuerKey)
		if err != nil {
			return err
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		if err := save(want.Name+".key", "EC PRIVATE KEY", keyDER, 0o600); err != nil {
			return err
		}
		if err := save(want.Name+".crt", "CERTIFICATE", der, 0o644); err != nil {
			return err
		}
		authorities[want.Name], keys[want.Name] = certificate, key
	}
	return nil
}

func template(want wanted) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	certificate := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: want.CommonName, Organization: want.Organizations},
		NotBefore:    now.Add(-backdated),
		NotAfter:     now.AddDate(1, 0, 0),
		DNSNames:     want.DNSNames,
		IPAddresses:  want.Addresses,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if want.Issuer == "" {
		certificate.IsCA, certificate.BasicConstraintsValid = true, true
		certificate.KeyUsage |= x509.KeyUsageCertSign
		certificate.ExtKeyUsage = nil
	}
	return certificate, nil
}

func save(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
