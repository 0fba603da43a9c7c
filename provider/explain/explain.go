// Package explain says what an error of an agent means to somebody who has a
// configuration, and what to try next.
//
// Floor 4: it knows the admin API's errors, nothing of Terraform. Pure; no
// goroutines.
package explain

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// Instance turns an error about one instance into words for people: what it
// means in terms of the configuration, and what to try next.
func Instance(name, endpoint string, err error) (summary, detail string) {
	var (
		problem  *adminapi.Problem
		verify   *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
	)
	at := func(text string) string {
		return fmt.Sprintf("instance %s (%s): %v\n\n%s", name, endpoint, err, text)
	}
	switch {
	case errors.As(err, &problem):
		switch problem.Kind() {
		case adminapi.Unauthorized:
			return "Instance " + name + " refuses the token", at("Set token or token_file of the provider (or ZDM_ADMIN_TOKEN) to the token of this instance's agent.")
		case adminapi.Stale:
			return "Instance " + name + " was changed meanwhile", at("Somebody else changed it since it was read; plan again.")
		case adminapi.InvalidConfig:
			return "Instance " + name + " refuses the configuration", at("Mend what it says, and apply again.")
		case adminapi.ApplyFailed:
			return "Instance " + name + " could not run the configuration", at("Mend what it says, and apply again.")
		case adminapi.IllegalMove:
			return "Instance " + name + " refuses the move", at("Ask for the phase next to the present one.")
		case adminapi.NotReady:
			return "Instance " + name + " is not ready for the phase", at("Mend what it says, and apply again.")
		case adminapi.Conflict:
			return "Instance " + name + ": " + problem.Title, at("Plan again when that is settled.")
		}
		return "Instance " + name + " answers with an error", at("The last events of its agent tell more: GET " + adminapi.PathEvents + ".")
	case errors.As(err, &hostname):
		return "Certificate of instance " + name + " does not match", at("The certificate is for another name or address; give its agent one that names what admin_endpoint says.")
	case errors.As(err, &unknown):
		return "Certificate of instance " + name + " is not trusted", at("It is signed by an authority that is not in ca_pem or ca_file of the provider (or ZDM_ADMIN_CA_FILE).")
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "Certificate of instance " + name + " is not valid", at("Give its agent a certificate that is.")
	}
	return "Instance " + name + " does not answer", at("Check that the machine runs, that its agent does, and that admin_endpoint can be reached from here.")
}
