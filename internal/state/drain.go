package state

// keyDraining is there while no new writes are to be taken.
var keyDraining = []byte("mdraining")

// SetDraining notes, durably, that no new writes are to be taken, or that they are.
func (s *Store) SetDraining(draining bool) error {
	return s.use(func() error {
		b := s.db.NewBatch()
		defer b.Close()
		var err error
		if draining {
			err = setNumber(b, keyDraining, 1)
		} else {
			err = b.Delete(keyDraining, nil)
		}
		if err != nil {
			return err
		}
		return s.commit(b)
	})
}

// Draining is what SetDraining noted last; false if it was never called.
func (s *Store) Draining() (draining bool, err error) {
	err = s.use(func() error {
		_, draining, err = s.number(keyDraining)
		return err
	})
	return draining, err
}
