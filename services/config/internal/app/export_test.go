package app

import "errors"

// CheckExposure says whether these settings may listen where they say,
// without listening.
func CheckExposure(environ []string) error {
	s, err := LoadSettings(environ)
	if err != nil {
		return err
	}
	_, badAddress := s.address()
	_, badTLS := s.tls()
	return errors.Join(badAddress, badTLS)
}
