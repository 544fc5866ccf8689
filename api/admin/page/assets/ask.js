// Questions: before what cannot be undone, and for a token.
import {element} from './dom.js';

let closed = true; // the event comes after the dialog is out of sight

function open(title, text, label, yes, danger) {
  const dialog = element('ask');
  if (!closed) return Promise.resolve(false);
  element('ask-title').textContent = title;
  element('ask-text').textContent = text;
  element('ask-label').hidden = !label;
  element('ask-input').value = '';
  element('ask-yes').textContent = yes;
  element('ask-yes').className = danger ? 'danger' : '';
  dialog.returnValue = '';
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      closed = true;
      resolve(dialog.returnValue === 'yes');
    }, {once: true});
    closed = false;
    dialog.showModal();
  });
}

export const sure = (title, text, yes) => open(title, text, false, yes, true);

// forToken resolves to what was typed, or null.
export async function forToken(text) {
  const answer = await open('Token', text, true, 'Use it', false);
  const typed = element('ask-input').value.trim();
  element('ask-input').value = '';
  return answer ? typed : null;
}
