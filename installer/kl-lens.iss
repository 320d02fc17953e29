; Inno Setup 6: one setup program out of dist\kl-lens, which PyInstaller makes (see kl-lens.spec). Compile with
;   iscc installer\kl-lens.iss
; Not compiled on Windows yet.
;
; Installed for one user, without administrator rights, and in a short path: torch holds paths of 170 characters,
; and Windows ends them at 260.

; PyInstaller's run of kl-lens.spec writes the version there.
#include "..\build\version.iss"

[Setup]
AppId={{6C1A6E0B-2F0E-4B57-9C3D-8A3C5D1E7B42}
AppName=KL Lens
AppVersion={#Version}
AppPublisher=KL Lens Desktop developers
DefaultDirName={localappdata}\KLLens
DisableProgramGroupPage=yes
PrivilegesRequired=lowest
ArchitecturesAllowed=x64compatible
ArchitecturesInstallIn64BitMode=x64compatible
MinVersion=10.0.17763
LicenseFile=..\LICENSE
OutputDir=..\dist
OutputBaseFilename=kl-lens-{#Version}-setup
Compression=lzma2/fast
SolidCompression=yes
WizardStyle=modern
SetupIconFile=..\build\icons\kl-lens.ico
UninstallDisplayIcon={app}\KL Lens.exe

[InstallDelete]
; An update must not leave modules of the version before among the new ones.
Type: filesandordirs; Name: "{app}\_internal"

[Files]
Source: "..\dist\kl-lens\*"; DestDir: "{app}"; Flags: recursesubdirs ignoreversion

[Icons]
Name: "{autoprograms}\KL Lens"; Filename: "{app}\KL Lens.exe"

[Run]
Filename: "{app}\KL Lens.exe"; Description: "Open KL Lens"; Flags: postinstall nowait skipifsilent
